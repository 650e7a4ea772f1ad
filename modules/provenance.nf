include { quoted ; task_environment } from './inputs.nf'

// Writes what the run was made of and what it made.
process PROVENANCE {
    label 'process_light'
    // It tells of this run, and not of the one that it resumes.
    cache false

    input:
    val run // JSON: what the head process alone knows
    path samples
    path outcomes

    output:
    path 'provenance.json', emit: crate

    script:
    """
    printf '%s' ${quoted(run)} > run.json
    ${task_environment(task)}histocast provenance --run run.json --samples ${samples} --outcomes ${outcomes}
    """

    stub:
    """
    printf '%s' ${quoted(run)} > provenance.json
    """
}

def facts_of_run(parameters) {
    def facts = [
        pipeline: workflow.manifest.name,
        pipeline_version: workflow.manifest.version,
        revision: workflow.commitId ?: revision_of(workflow.projectDir),
        nextflow_version: workflow.nextflow.version.toString(),
        run_name: workflow.runName,
        session_id: workflow.sessionId.toString(),
        started: workflow.start.toString(),
        profile: workflow.profile,
        container_engine: workflow.containerEngine,
        parameters: parameters,
    ]
    return groovy.json.JsonOutput.toJson(facts)
}

// Commit of a checkout, marked where files were changed; nothing where this is no checkout, or there is no git.
def revision_of(folder) {
    if (!folder.resolve('.git').exists()) {
        return null
    }
    def git = ['git', '-C', folder.toString(), 'describe', '--always', '--abbrev=40', '--dirty', '--exclude=*']
    try {
        def asked = git.execute()
        asked.waitFor()
        return asked.exitValue() == 0 ? asked.text.trim() : null
    }
    catch (IOException _absent) {
        return null
    }
}
