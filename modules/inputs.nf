// How inputs reach a task. A local file is staged, so that a container sees it. An s3:// object stays a
// value: the Python steps read the ranges they need, and no head node or task copies an archive.

def is_object(uri) {
    return uri.toString().startsWith('s3://')
}

// The file to stage, or nothing for an object or an absent parameter.
def local_file(uri) {
    return !uri || is_object(uri) ? [] : file(uri, checkIfExists: true)
}

// The same for what training reads whole: Nextflow brings an object too.
def whole_file(uri) {
    return uri ? file(uri, checkIfExists: true) : []
}

// A command line option for an input that is staged, or a value, or absent.
def option(name, staged, uri) {
    def value = staged ?: uri
    return value ? "${name} ${quoted(value)}" : ''
}

// Text as one word of the shell, whatever it holds.
def quoted(text) {
    return "'" + text.toString().replace("'", "'\\''") + "'"
}

// What a task's program is told through its environment. Threads: as many as the task has processors, also for libraries
// that would take the machine's. Image: nothing within a container tells it, and status records and results name it.
// Caches: in the task's own folder, because a container's home may be no place to write. Log: a file in the task's folder,
// or standard error where that folder is a scratch folder that goes with the task.
def surroundings(task) {
    def threads = ['HISTOCAST_', 'OMP_NUM_', 'OPENBLAS_NUM_', 'MKL_NUM_'].collect { library ->
        "${library}THREADS=${task.cpus} "
    }
    def is_contained = (workflow.containerEngine || task.executor == 'awsbatch') && task.container
    def contained = is_contained
        ? "HISTOCAST_IMAGE=${quoted(task.container)} XDG_CACHE_HOME=\"\$PWD/.cache\" MPLCONFIGDIR=\"\$PWD/.cache/matplotlib\" "
        : ''
    def is_scratch = task.scratch || task.executor == 'awsbatch'
    return threads.join() + contained + (is_scratch ? 'HISTOCAST_LOG=- ' : '')
}

// CHECK looks at every slide, but a container sees only the folders of what its task was given: one slide of
// each local folder opens it. A cell that is no file is left to CHECK, which says what is wrong with it.
def one_slide_a_folder(samplesheet) {
    if (!workflow.containerEngine || is_object(samplesheet)) {
        return []
    }
    def sheet = file(samplesheet)
    def cells = sheet.readLines().collectMany { line -> line.split(/[,;\t]/).toList() }
    def files = cells
        .collect { cell -> cell.trim().replaceAll(/^"|"$/, '') }
        .findAll { cell -> cell && !is_object(cell) }
        .collect { cell -> sheet.parent.resolve(cell) }
        .findAll { path -> path.isFile() }
    return files.unique { path -> path.parent }
}

// The sections of a training sheet, with the files each one stands on. PLAN judges the sheet.
def read_sections(training_sheet) {
    def sheet = file(training_sheet, checkIfExists: true)
    return sheet.splitCsv(header: true, strip: true).collect { row ->
        tuple(row.sample, file_beside(sheet, row.slide), file_beside(sheet, row.counts), file_beside(sheet, row.spots))
    }
}

def file_beside(sheet, cell) {
    return !cell || is_object(cell) ? [] : local_file(sheet.parent.resolve(cell))
}

// What decides a sample's results, one map a sample that can be processed: it is part of each task's inputs,
// so that -resume runs again exactly the slides that changed.
def read_samples(samples_json) {
    def record = new groovy.json.JsonSlurper().parse(samples_json)
    return record.samples
        .findAll { sample -> !sample.error }
        .collect { sample ->
            [
                id: sample.sample,
                slide: sample.slide,
                version: sample.version,
                size_bytes: sample.size_bytes,
                mpp: sample.mpp,
                spots: sample.spots,
                spots_version: sample.spots_version,
                bundle_digest: record.bundle_digest,
                genes_digest: record.genes_digest,
                histocast_version: workflow.manifest.version,
            ]
        }
}

// What PLAN found: the encoders that are needed, and the models to train.
def read_plan(plan_json) {
    return new groovy.json.JsonSlurper().parse(plan_json)
}
