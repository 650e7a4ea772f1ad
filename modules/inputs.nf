// How inputs reach a task. A local file is staged, so that a container sees it. An s3:// object stays a
// value: the Python steps read the ranges they need, and no head node or task copies an archive.

def is_object(uri) {
    return uri.toString().startsWith('s3://')
}

// The file to stage, or nothing for an object or an absent parameter.
def local_file(uri) {
    return !uri || is_object(uri) ? [] : whole_file(uri)
}

// The same for what training reads whole: Nextflow brings an object too.
def whole_file(uri) {
    if (!uri) {
        return []
    }
    if (!is_object(uri) && !is_stageable(uri)) {
        error("Nextflow cannot bring a path with any of \$ * ? [ { to a task: ${visible(uri)}\nwhat to do: rename the file or the folder that has it")
    }
    return file(uri, checkIfExists: true, glob: false)
}

// The local files among a task's inputs, to stage. Where no container hides them, those that cannot be staged are left
// out: their paths are absolute, and the task reads them where they lie.
def local_files(paths) {
    def local = paths.findAll { path -> path && !is_object(path) }
    def all_stageable = local.every { path -> is_stageable(path) }
    return all_stageable || workflow.containerEngine ? local.collect { path -> local_file(path) } : []
}

// Nextflow links inputs into a task's folder by a script that leaves these characters to the shell.
def is_stageable(path) {
    return !(path.toString() =~ '[$*?\\[{\\p{Cntrl}]')
}

def visible(text) {
    return text.toString().replaceAll(/\p{Cntrl}/, '?')
}

// A command line option for an input that is staged (the first of several files), or a value, or absent.
def option(name, staged, uri) {
    def value = staged instanceof Collection ? staged[0] : staged
    return value || uri ? "${name} ${quoted(value ?: uri)}" : ''
}

// Text as one word of the shell, whatever it holds.
def quoted(text) {
    return "'" + text.toString().replace("'", "'\\''") + "'"
}

// Executors that run each task in a container without any engine's configuration.
def executors_of_containers() {
    return ['awsbatch', 'azurebatch', 'google-batch', 'k8s']
}

// Whether the tasks of this run are in containers.
def runs_in_containers() {
    return workflow.containerEngine || workflow.profile.tokenize(',').any { name -> name.trim() in executors_of_containers() }
}

// What a task's program is told through its environment. Threads: as many as the task has processors, also for libraries
// that would take the machine's. Image: nothing within a container tells it, and status records and results name it.
// Caches: in the task's own folder, because a container's home may be no place to write. Log: a file in the task's folder,
// or standard error where that folder is a scratch folder that goes with the task.
def task_environment(task) {
    def threads = ['HISTOCAST_', 'OMP_NUM_', 'OPENBLAS_NUM_', 'MKL_NUM_'].collect { library ->
        "${library}THREADS=${task.cpus} "
    }
    def is_contained = (workflow.containerEngine || task.executor in executors_of_containers()) && task.container
    def contained = is_contained
        ? "HISTOCAST_IMAGE=${quoted(task.container)} XDG_CACHE_HOME=\"\$PWD/.cache\" MPLCONFIGDIR=\"\$PWD/.cache/matplotlib\" "
        : ''
    def is_scratch = task.scratch || task.executor == 'awsbatch'
    return threads.join() + contained + (is_scratch ? 'HISTOCAST_LOG=- ' : '')
}

// In which precision a task's encoders compute: within its script, since it decides results.
def precision(task) {
    return task.ext.precision && task.ext.precision != 'fp32' ? "HISTOCAST_PRECISION=${quoted(task.ext.precision)} " : ''
}

// CHECK looks at every slide, but a container sees only the folders of what its task was given: one slide of each local
// folder opens it. Nextflow follows links when it stages, so that folders of links are mounted by name. A cell that is no
// file is left to CHECK, which says what is wrong with it.
def folders_to_open(samplesheet, others) {
    def slides = local_slides(samplesheet)
    def files = slides.collect { path -> path.toRealPath() }.findAll { path -> is_stageable(path) }.unique { path -> path.parent }
    def staged = slides ? files + ([samplesheet] + others).findAll { uri -> uri && !is_object(uri) }.collect { uri -> file(uri, glob: false).toRealPath() } : []
    // An engine refuses to mount a folder twice, so that those around what Nextflow mounts are left out.
    def mounted = staged.collect { path -> path.parent } + [workflow.workDir, projectDir]
    def links = slides
        .collectMany { path -> links_of(path) }
        .collect { path -> path.parent }
        .unique()
        .findAll { folder -> !mounted.any { path -> path.startsWith(folder) } }
    return [files, links.collect { folder -> folder.toString() }]
}

def local_slides(samplesheet) {
    def sheet = is_object(samplesheet) ? null : file(samplesheet, glob: false)
    if (!workflow.containerEngine || !sheet?.isFile()) {
        return []
    }
    def cells = sheet.readLines().collectMany { line -> line.findAll(/"(?:[^"]|"")*"|[^,;\t]+/) }
    return cells
        .collect { cell -> cell.trim().replaceAll(/^"|"$/, '').replace('""', '"') }
        .findAll { cell -> cell && !is_object(cell) && is_stageable(cell) }
        .collect { cell -> sheet.toRealPath().parent.resolve(cell) }
        .findAll { path -> path.isFile() }
}

// A path, where it is a link, and every other link on the way to its file.
def links_of(path, most = 40) {
    def leads_on = most > 0 && java.nio.file.Files.isSymbolicLink(path)
    def target = leads_on ? path.resolveSibling(java.nio.file.Files.readSymbolicLink(path)) : null
    return leads_on ? [path.normalize()] + links_of(target, most - 1) : []
}

// Options of a container engine that mount folders where they are.
def mounts(folders) {
    def flag = workflow.containerEngine in ['apptainer', 'singularity'] ? '-B' : '-v'
    return folders.collect { folder -> "${flag} ${quoted(folder)}:${quoted(folder)}:ro" }.join(' ')
}

// The sections that PLAN found in the training sheet, with the files of each.
def read_sections(plan) {
    return plan.sections.collect { row ->
        tuple(row.sample, row.companions_version, local_files(row.files ?: [row.slide]), local_files([row.counts]), local_files([row.spots]))
    }
}

// What decides a sample's results, one map per sample that can be processed: it is part of each task's inputs,
// so that -resume runs again exactly the slides that changed.
def read_samples(samples_json) {
    def record = new groovy.json.JsonSlurper().parse(samples_json)
    return record.samples
        .findAll { sample -> !sample.error }
        .collect { sample ->
            [
                id: sample.sample,
                slide: sample.slide,
                files: sample.files,
                version: sample.version,
                companions_version: sample.companions_version,
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

// What PLAN found: how sections are prepared, the models to train, and the recipe of each method with every choice resolved.
def read_plan(plan_json) {
    return new groovy.json.JsonSlurper().parse(plan_json)
}

// Parts of the plan, for a task that depends on them alone. As text: as a file they would be new in each run, and nothing
// would be cached.
def part_of(plan, names) {
    return to_json(plan.subMap(names))
}

def recipe_of(plan, method) {
    return to_json([recipes: plan.recipes.subMap([method])])
}

def to_json(value) {
    return groovy.json.JsonOutput.toJson(value)
}
