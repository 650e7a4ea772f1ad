include { quoted ; task_environment } from './inputs.nf'

// Writes what a training run was made of and what it made: what PROVENANCE is to the predict workflow.
process LINEAGE {
    label 'process_light'
    // It tells of this run, and not of the one that it resumes.
    cache false

    input:
    val run // JSON: what the head process alone knows
    path sections, stageAs: 'parts/sections/?/*' // section.json of each section
    path models, stageAs: 'parts/models/?/*' // train.json of each model
    path bundles, stageAs: 'parts/bundles/?/*' // bundle.json of each bundle
    path evaluation, stageAs: 'evaluation/*'
    val plan // JSON: a recipe, with the digest of each file that was given

    output:
    path 'provenance.json', emit: crate

    script:
    """
    printf '%s' ${quoted(run)} > run.json
    printf '%s' ${quoted(plan)} > plan.json
    ${task_environment(task)}histocast lineage \\
        --run run.json \\
        --parts parts \\
        --evaluation evaluation \\
        --recipe plan.json
    """

    stub:
    """
    printf '%s' ${quoted(run)} > provenance.json
    """
}
