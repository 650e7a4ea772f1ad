include { option ; quoted ; task_environment } from './inputs.nf'

// Opens the slide, finds tissue and lays tiles on it, or takes the measured spots.
process TILE {
    tag "${meta.id}"
    label 'process_io'

    input:
    tuple val(meta), path(slide, stageAs: 'slide/*'), path(spots, stageAs: 'spots/*')
    tuple path(bundle, stageAs: 'bundle/*'), val(bundle_uri)

    output:
    tuple val(meta), path('slide.json'), path('tiles.parquet'), optional: true, emit: tiles
    tuple val(meta), path('thumbnail.png'), optional: true, emit: thumbnail
    tuple val(meta), path('tissue.png'), optional: true, emit: tissue
    path 'tile.status.json', emit: status

    script:
    """
    ${task_environment(task)}histocast tile --record-errors \\
        --sample ${quoted(meta.id)} \\
        ${option('--slide', slide, meta.slide)} \\
        ${slide ? '' : option('--version', null, meta.version)} \\
        ${option('--mpp', null, meta.mpp)} \\
        ${option('--spots', spots, meta.spots)} \\
        ${option('--bundle', bundle, bundle_uri)}
    """

    stub:
    """
    touch slide.json tiles.parquet thumbnail.png tissue.png
    echo '{"schema_version": 1, "sample": "${meta.id}", "stage": "tile", "outcome": "ok"}' > tile.status.json
    """
}
