include { mounts ; quoted ; task_environment } from './inputs.nf'

// Tiles and encodes one section of a training sheet, and aligns it with its counts.
process PREPARE {
    tag "${sample}"
    label 'process_train'
    containerOptions { mounts(link_folders) }

    input:
    // The section's own files are staged for what a container sees and a cache compares, and of a folder beside the
    // slide the version is compared; the sheet names them.
    tuple val(sample), val(companions_version), path(slide, stageAs: 'slide/*'), path(counts, stageAs: 'counts/*'), path(spots, stageAs: 'spots/*')
    tuple path(sheet), val(link_folders)
    val plan // JSON: how sections are prepared
    path encoders

    output:
    path "set/${sample}", emit: section

    script:
    """
    printf '%s' ${quoted(plan)} > plan.json
    ${task_environment(task)}histocast prepare \\
        --input ${sheet} \\
        --sample ${quoted(sample)} \\
        --recipe plan.json \\
        --encoders ${quoted(encoders)} \\
        --outdir set
    """

    stub:
    """
    mkdir -p set/${sample}
    touch set/${sample}/section.json
    """
}
