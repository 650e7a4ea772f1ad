include { quoted ; task_environment } from './inputs.nf'

// Accounts for every row of the samplesheet.
process SUMMARISE {
    label 'process_light'

    input:
    // The text of CHECK's samples.json: as a file it would be new in each run, and never cached.
    val samples
    path status, stageAs: 'stages/?/*'
    val cohort // whether there will be the page of a cohort to link to

    output:
    path 'summary.html', emit: page
    path 'summary.parquet', emit: table
    path 'histocast_mqc.json', emit: multiqc
    path '*/status.json', emit: status
    path 'outcomes.json', emit: outcomes
    path 'failures.txt', emit: failures

    script:
    """
    printf '%s' ${quoted(samples)} > samples.json
    mkdir -p stages
    ${task_environment(task)}histocast summarise --samples samples.json --status stages ${cohort ? '--cohort' : ''} > failures.txt
    """

    stub:
    """
    touch summary.html summary.parquet histocast_mqc.json outcomes.json failures.txt
    for sample in \$(grep -o '"sample": "[^"]*"' <<< ${quoted(samples)} | cut -d'"' -f4); do
        mkdir "\$sample"
        echo "{\\"schema_version\\": 1, \\"sample\\": \\"\$sample\\", \\"outcome\\": \\"ok\\"}" > "\$sample/status.json"
    done
    """
}
