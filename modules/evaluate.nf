include { quoted ; task_environment } from './inputs.nf'

// Scores every model on the sections it did not see, beside controls.
process EVALUATE {
    label 'process_train'

    input:
    path models
    path sections, stageAs: 'set/*'

    output:
    path 'evaluation/evaluation.json', emit: evaluation
    path 'evaluation/*.{html,md,parquet}', emit: tables

    script:
    """
    ${task_environment(task)}histocast evaluate \\
        --set set \\
        ${models.collect { model -> "--model ${quoted(model)}" }.join(' ')} \\
        --threads ${task.cpus} \\
        --outdir evaluation
    """

    stub:
    """
    mkdir evaluation
    touch evaluation/evaluation.{json,md,html} evaluation/{sections,genes}.parquet
    """
}
