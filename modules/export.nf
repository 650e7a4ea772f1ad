include { quoted ; task_environment } from './inputs.nf'

// Completes a trained model to a bundle: its encoders, its measured figures, its model card.
process EXPORT {
    tag "${name}"
    label 'process_train'

    input:
    tuple val(name), path(model)
    path evaluation
    path encoders

    output:
    tuple val(name), path("${name}/bundle"), emit: bundle

    script:
    """
    ${task_environment(task)}histocast export \\
        --model ${quoted(model)} \\
        --encoders ${quoted(encoders)} \\
        --evaluation ${quoted(evaluation)} \\
        --outdir ${quoted(name)}/bundle
    """

    stub:
    """
    mkdir -p ${quoted(name)}/bundle
    touch ${quoted(name)}/bundle/bundle.json
    """
}
