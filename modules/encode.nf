include { option ; precision ; task_environment } from './inputs.nf'

// Decodes each tile once and runs every encoder of the bundle on it.
process ENCODE {
    tag "${meta.id}"
    label 'process_gpu'

    input:
    tuple val(meta), path(slide, stageAs: 'slide/*'), path(slide_record), path(tiles)
    tuple path(bundle, stageAs: 'bundle/*'), val(bundle_uri)
    val max_unreadable

    output:
    tuple val(meta), path('features.parquet'), optional: true, emit: features
    path 'encode.status.json', emit: status

    script:
    """
    ${precision(task)}${task_environment(task)}histocast encode --record-errors \\
        ${option('--slide', slide, meta.slide)} \\
        ${slide ? '' : option('--version', null, meta.version)} \\
        ${option('--mpp', null, meta.mpp)} \\
        --slide-record ${slide_record} \\
        --tiles ${tiles} \\
        ${option('--bundle', bundle, bundle_uri)} \\
        --max-unreadable ${max_unreadable} \\
        --threads ${task.cpus}
    """

    stub:
    """
    touch features.parquet
    echo '{"schema_version": 1, "sample": "${meta.id}", "stage": "encode", "outcome": "ok"}' > encode.status.json
    """
}
