include { mounts ; option ; quoted ; task_environment } from './inputs.nf'

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
    tuple path(recipe, stageAs: 'recipe/*'), val(recipe_name)
    path panel, stageAs: 'panel/*'
    tuple val(encoders), val(keep_pixels) // those that the methods take features of; whether a method trains one
    path exported, stageAs: 'exported/*' // folders of encoders with weights

    output:
    path "set/${sample}", emit: section
    path 'set/encoders', emit: encoders

    script:
    """
    ${task_environment(task)}histocast prepare \\
        --input ${sheet} \\
        --sample ${quoted(sample)} \\
        ${option('--recipe', recipe, recipe_name)} \\
        ${option('--panel', panel, null)} \\
        ${encoders.collect { name -> "--encoder ${quoted(name)}" }.join(' ')} \\
        ${[exported].flatten().collect { folder -> option('--exported', folder, null) }.join(' ')} \\
        ${keep_pixels ? '--keep-pixels' : ''} \\
        --outdir set
    """

    stub:
    """
    mkdir -p set/${sample} set/encoders
    touch set/${sample}/section.json set/encoders/bundle.json
    """
}
