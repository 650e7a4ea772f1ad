// Ends the run as --on_slide_error says. It comes after the summary and ends with 'finish', so that every
// result is published before the run fails.
process CONCLUDE {
    cache false
    executor 'local'
    errorStrategy 'finish'

    input:
    tuple val(failures), val(outcomes) // file with a line for each failed sample; outcomes.json
    val on_slide_error
    val outdir

    exec:
    set_aside(outdir, outcomes)
    conclude(failures.readLines(), on_slide_error)

    stub:
    conclude([], on_slide_error)
}

// Moves aside what an earlier run left of a sample that failed in this one: nobody takes it for a result of this run, and
// nothing is lost. What this run itself made before a later stage failed stays.
def set_aside(outdir, outcomes) {
    def failed = new groovy.json.JsonSlurper().parse(outcomes).samples.findAll { sample -> sample.outcome == 'failed' }
    failed.each { sample ->
        def folder = file("${outdir}/${sample.sample}")
        def files = folder.exists() ? folder.listFiles().toList() : []
        files
            .findAll { path -> is_stale(path.name, sample.stages.last().stage) }
            .each { path -> move_aside(path, path.resolveSibling("${path.name}.stale"), sample.sample) }
    }
}

def is_stale(name, failed_stage) {
    return failed_stage == 'report' ? name ==~ /.*\.(html|geojson|zarr\.zip|spatialdata\.zarr)/ : name != 'status.json' && !name.endsWith('.stale')
}

def move_aside(path, target, sample) {
    try {
        if (target.isDirectory()) {
            target.deleteDir()
        }
        else if (target.exists()) {
            target.delete()
        }
        path.moveTo(target)
        log.warn("${sample} failed: what an earlier run made of it is now ${sample}/${target.name}")
    }
    catch (Exception refused) {
        log.warn("${sample} failed, and ${sample}/${path.name} of an earlier run cannot be moved aside: ${refused.message}")
    }
}

def conclude(failures, on_slide_error) {
    if (!failures) {
        return
    }
    def title = failures.size() == 1 ? '1 slide failed' : "${failures.size()} slides failed"
    def shown = failures.take(20).collect { line -> "  ${line}" }
    def message = (["${title}; every other one is done, and summary.html accounts for all"] + shown).join('\n')
    if (on_slide_error == 'fail') {
        error("${message}\nwhat to do: fix them and run again with -resume, or give --on_slide_error skip")
    }
    log.warn(message)
}
