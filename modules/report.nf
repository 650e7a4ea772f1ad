include { option ; quoted ; task_environment } from './inputs.nf'

// Draws the page of one sample, and writes what other programs open.
process REPORT {
    tag "${meta.id}"
    label 'process_light'

    input:
    tuple val(meta), path(slide_record), path(tiles), path(thumbnail), path(tissue), path(expression)
    val report_genes // with commas between them, or empty
    val page // whether to draw it
    val formats // with commas between them
    val cohort // whether there will be the page of a cohort to link to

    output:
    tuple val(meta), path("${meta.id}/${meta.id}.html"), optional: true, emit: page
    tuple val(meta), path("${meta.id}/${meta.id}.{geojson,zarr.zip,spatialdata.zarr}"), optional: true, emit: formats
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
        ${option('--formats', null, formats)} \\
        ${page ? '' : '--no-page'} \\
        ${cohort ? '--cohort' : ''} \\
        --outdir ${quoted(meta.id)}
    """

    stub:
    """
    mkdir ${meta.id}
    ${page ? "touch ${meta.id}/${meta.id}.html" : ''}
    for format in ${formats.tokenize(',').join(' ')}; do
        case \$format in
            geojson) touch ${meta.id}/${meta.id}.geojson ;;
            zarr) touch ${meta.id}/${meta.id}.zarr.zip ;;
            spatialdata) mkdir ${meta.id}/${meta.id}.spatialdata.zarr && touch ${meta.id}/${meta.id}.spatialdata.zarr/zarr.json ;;
        esac
    done
    echo '{"schema_version": 1, "sample": "${meta.id}", "stage": "report", "outcome": "ok"}' > ${meta.id}/report.status.json
    """
}
