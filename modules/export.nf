// Completes a trained model to a bundle: its encoders, its measured figures, its model card.
process EXPORT {
    tag "${meta.id}"
    label 'process_train'

    input:
    tuple val(meta), path(model), path(evaluation)
    path encoders

    output:
    tuple val(meta), path("${meta.id}/bundle"), emit: bundle

    script:
    """
    histocast export \\
        --model ${model} \\
        --encoders ${encoders} \\
        --evaluation ${evaluation} \\
        --outdir ${meta.id}/bundle
    """

    stub:
    """
    mkdir -p ${meta.id}/bundle
    touch ${meta.id}/bundle/bundle.json
    """
}
