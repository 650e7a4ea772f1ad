include { option ; quoted ; task_environment } from './inputs.nf'

// Draws the page of one sample.
process REPORT {
    tag "${meta.id}"
    label 'process_light'

    input:
    tuple val(meta), path(slide_record), path(tiles), path(thumbnail), path(tissue), path(expression)
    val report_genes // with commas between them, or empty

    output:
    tuple val(meta), path("${meta.id}/${meta.id}.html"), optional: true, emit: page
    path "${meta.id}/report.status.json", emit: status

    script:
    """
    ${task_environment(task)}histocast report \\
        --expression ${expression} \\
        --slide-record ${slide_record} \\
        --tiles ${tiles} \\
        --thumbnail ${thumbnail} \\
        --tissue ${tissue} \\
        ${option('--report-genes', null, report_genes)} \\
        --outdir ${quoted(meta.id)}
    """

    stub:
    """
    mkdir ${meta.id}
    touch ${meta.id}/${meta.id}.html
    echo '{"schema_version": 1, "sample": "${meta.id}", "stage": "report", "outcome": "ok"}' > ${meta.id}/report.status.json
    """
}
