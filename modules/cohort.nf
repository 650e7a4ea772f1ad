include { option ; task_environment } from './inputs.nf'

// Gathers the slides of this run as one data set.
process COHORT {
    label 'process_cohort'

    input:
    path summary, stageAs: 'results/summary.parquet'
    path slides, stageAs: 'results/?/*'
    tuple path(signatures, stageAs: 'signatures/*'), val(signatures_uri)
    val batch // column of the samplesheet, or empty
    val pages // whether samples have pages to link to

    output:
    path 'cohort/*.{parquet,h5ad,html}', emit: cohort

    script:
    """
    ${task_environment(task)}histocast cohort results \\
        ${option('--signatures', signatures, signatures_uri)} \\
        ${option('--batch', null, batch)} \\
        ${pages ? '--pages ..' : ''} \\
        --outdir cohort
    """

    stub:
    """
    mkdir cohort
    touch cohort/slides.parquet cohort/cohort.h5ad cohort/cohort.html
    """
}
