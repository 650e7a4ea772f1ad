include { option } from './inputs.nf'

// Trains one method on every fold, and judges it on what each fold held out, beside controls.
process EVALUATE {
    tag "${meta.id}"
    label 'process_train'

    input:
    val meta // id, and method where it is not the recipe's own
    path sections, stageAs: 'set/*'
    tuple path(recipe, stageAs: 'recipe/*'), val(recipe_name)
    path panel, stageAs: 'panel/*'

    output:
    tuple val(meta), path("${meta.id}/evaluation/evaluation.json"), emit: evaluation
    tuple val(meta), path("${meta.id}/evaluation/*.{md,parquet}"), emit: tables

    script:
    """
    histocast evaluate \\
        --set set \\
        ${option('--recipe', recipe, recipe_name)} \\
        ${option('--method', null, meta.method)} \\
        ${option('--panel', panel, null)} \\
        --threads ${task.cpus} \\
        --outdir ${meta.id}/evaluation
    """

    stub:
    """
    mkdir -p ${meta.id}/evaluation
    touch ${meta.id}/evaluation/evaluation.{json,md} ${meta.id}/evaluation/{sections,genes}.parquet
    """
}
