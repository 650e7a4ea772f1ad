include { option ; precision ; quoted ; task_environment } from './inputs.nf'

// Turns features into expression, region by region.
process PREDICT {
    tag "${meta.id}"
    label 'process_fusion'

    input:
    tuple val(meta), path(slide_record), path(tiles), path(thumbnail), path(features)
    tuple path(bundle, stageAs: 'bundle/*'), val(bundle_uri)
    tuple path(genes, stageAs: 'genes/*'), val(genes_uri)

    output:
    tuple val(meta), path("${meta.id}/${meta.id}.h5ad"), optional: true, emit: anndata
    tuple val(meta), path("${meta.id}/${meta.id}.parquet"), optional: true, emit: table
    tuple val(meta), path("${meta.id}/${meta.id}.genes.parquet"), optional: true, emit: genes
    tuple val(meta), path("${meta.id}/${meta.id}.slide.parquet"), optional: true, emit: summary
    path "${meta.id}/predict.status.json", emit: status

    script:
    """
    ${precision(task)}${task_environment(task)}histocast predict \\
        --slide-record ${slide_record} \\
        --tiles ${tiles} \\
        --features ${features} \\
        --thumbnail ${thumbnail} \\
        ${option('--bundle', bundle, bundle_uri)} \\
        ${option('--genes', genes, genes_uri)} \\
        --threads ${task.cpus} \\
        --outdir ${quoted(meta.id)}
    """

    stub:
    """
    mkdir ${meta.id}
    touch ${meta.id}/${meta.id}.{h5ad,parquet,genes.parquet,slide.parquet}
    echo '{"schema_version": 1, "sample": "${meta.id}", "stage": "predict", "outcome": "ok"}' > ${meta.id}/predict.status.json
    """
}
