include { option ; quoted ; task_environment } from './inputs.nf'

// Writes the encoders that the sections of a training go through, once for all of them.
process PREPARE_ENCODERS {
    label 'process_train'

    input:
    val plan // JSON: how sections are prepared
    path exported, stageAs: 'exported/*' // folders of encoders with weights

    output:
    path 'encoders', emit: encoders

    script:
    """
    printf '%s' ${quoted(plan)} > plan.json
    ${task_environment(task)}histocast prepare-encoders \\
        --recipe plan.json \\
        ${[exported].flatten().collect { folder -> option('--exported', folder, null) }.join(' ')} \\
        --outdir encoders
    """

    stub:
    """
    mkdir encoders
    touch encoders/bundle.json
    """
}
