include { surroundings } from './inputs.nf'

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
    ${surroundings(task)}histocast export \\
        --model ${model} \\
        --encoders ${encoders} \\
        --evaluation ${evaluation} \\
        --outdir ${name}/bundle
    """

    stub:
    """
    mkdir -p ${name}/bundle
    touch ${name}/bundle/bundle.json
    """
}
