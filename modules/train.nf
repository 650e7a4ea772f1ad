include { option } from './inputs.nf'

// Trains one method on every section.
process TRAIN {
    tag "${meta.id}"
    label 'process_train'

    input:
    val meta // id, and method where it is not the recipe's own
    path sections, stageAs: 'set/*'
    tuple path(recipe, stageAs: 'recipe/*'), val(recipe_name)
    path panel, stageAs: 'panel/*'

    output:
    tuple val(meta), path('model'), emit: model

    script:
    """
    histocast train \\
        --set set \\
        ${option('--recipe', recipe, recipe_name)} \\
        ${option('--method', null, meta.method)} \\
        ${option('--panel', panel, null)} \\
        --outdir model
    """

    stub:
    """
    mkdir model
    touch model/bundle.json model/fusion.onnx model/genes.parquet model/train.json
    """
}
