include { mounts ; option ; precision ; task_environment } from './inputs.nf'

// Validates every row of the samplesheet, the bundle and the gene panel before the first slide is opened.
process CHECK {
    tag "${samplesheet_uri.toString().tokenize('/').last()}"
    label 'process_light'
    // It asks the store what lies there now, which no cache can know.
    cache false
    containerOptions { mounts(link_folders) }

    input:
    tuple path(samplesheet), val(samplesheet_uri), path(slides, stageAs: 'slides/?/*'), val(link_folders)
    tuple path(bundle, stageAs: 'bundle/*'), val(bundle_uri)
    tuple path(genes, stageAs: 'genes/*'), val(genes_uri)
    val report_genes // with commas between them, or empty
    val on_slide_error
    val allow_metadata // columns with commas between them, or empty
    val cohort // whether slides will be gathered as one data set
    val formats // with commas between them

    output:
    path 'samples.json', emit: samples

    script:
    """
    ${precision(task)}${task_environment(task)}histocast check \\
        ${option('--input', samplesheet, samplesheet_uri)} \\
        ${option('--bundle', bundle, bundle_uri)} \\
        ${option('--genes', genes, genes_uri)} \\
        ${option('--report-genes', null, report_genes)} \\
        ${option('--allow-metadata', null, allow_metadata)} \\
        ${cohort ? '--cohort' : ''} \\
        ${option('--formats', null, formats)} \\
        --on-slide-error ${on_slide_error}
    """

    stub:
    // Takes the columns sample and slide as they stand.
    """
    awk -F, '
        NR == 1 { for (i = 1; i <= NF; i++) column[\$i] = i; next }
        NF { printf "%s{\\"sample\\": \\"%s\\", \\"slide\\": \\"s3://stub/%s\\"}", (rows++ ? ",\\n" : ""),
             \$column["sample"], \$column["slide"] }
    ' ${samplesheet} > rows
    printf '{"schema_version": 1, "bundle_digest": "sha256:stub", "samples": [%s]}\\n' "\$(cat rows)" > samples.json
    """
}
