// Ends the run as --on_slide_error says. It comes after the summary and ends with 'finish', so that every
// result is published before the run fails.
process CONCLUDE {
    cache false
    executor 'local'
    errorStrategy 'finish'

    input:
    val failures // file with a line for each failed sample
    val on_slide_error

    exec:
    conclude(failures.readLines(), on_slide_error)

    stub:
    conclude([], on_slide_error)
}

def conclude(failures, on_slide_error) {
    if (!failures) {
        return
    }
    def title = failures.size() == 1 ? '1 slide failed' : "${failures.size()} slides failed"
    def shown = failures.take(20).collect { line -> "  ${line}" }
    def message = (["${title}; every other one is done, and summary.html accounts for all"] + shown).join('\n')
    if (on_slide_error == 'fail') {
        error("${message}\nwhat to do: mend them and run again with -resume, or give --on_slide_error skip")
    }
    log.warn(message)
}
