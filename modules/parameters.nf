include { executors_of_containers } from './inputs.nf'

// Parameters are validated against nextflow_schema.json in the head process, so that a slip of the pen costs no task.

def known_parameters(schema) {
    def groups = new groovy.json.JsonSlurper().parse(schema)['$defs']
    return groups.collectEntries { _key, group ->
        group.properties.collectEntries { name, facts ->
            [name, facts + [group: group.title, required: name in (group.required ?: [])]]
        }
    }
}

// Ends the run with every fault at once.
def check_parameters(schema, given) {
    def known = known_parameters(schema)
    def faults = unknown_parameters(known.keySet(), given.keySet())
    // A file of the site may turn an engine on, too.
    def profiles = workflow.profile.tokenize(',')*.trim() + (workflow.containerEngine ? [workflow.containerEngine] : [])
    known.each { name, facts ->
        def value = given[name]
        def fault = value in [null, '']
            ? absence_of(facts, given.workflow)
            : fault_of(value, facts) ?: secret_in(value) ?: unknown_store_in(value) ?: lack_of_effect(value, facts, given, profiles)
        if (fault) {
            faults << "--${name} ${fault}".toString()
        }
    }
    def fault_of_work = unknown_store_in(workflow.workDir.toUriString())
    if (fault_of_work) {
        faults << "-work-dir ${fault_of_work}".toString()
    }
    if (faults) {
        def title = "${faults.size()} wrong parameter${faults.size() > 1 ? 's' : ''}"
        error(([title] + faults.collect { fault -> "  ${fault}" } + ['See: nextflow run . --help']).join('\n'))
    }
}

// Nextflow gives --max-cpus also as maxCpus: both are one slip, told as it was written.
def unknown_parameters(names, given) {
    return (given - names)
        .toSorted { name -> name.contains('-') ? 0 : 1 }
        .unique { name -> plain(name) }
        .collect { name ->
            def close = names.max { other -> likeness(plain(name), plain(other)) }
            def hint = likeness(plain(name), plain(close)) > 0.4 ? "; did you mean --${close}?" : ''
            "--${name} is unknown${hint}".toString()
        }
}

def plain(name) {
    return name.replaceAll('[-_]', '').toLowerCase()
}

// Share of letter pairs two words have in common (Dice), 0 to 1.
def likeness(left, right) {
    def pairs_left = letter_pairs(left)
    def pairs_right = letter_pairs(right)
    return 2 * pairs_left.intersect(pairs_right).size() / (pairs_left.size() + pairs_right.size())
}

def letter_pairs(word) {
    return (0..<Math.max(word.size() - 1, 1)).collect { at -> word.drop(at).take(2) } as Set
}

// What is wrong when there is no value, or null.
def absence_of(facts, chosen_workflow) {
    return facts.required || facts.needed_by == chosen_workflow ? "is missing: ${facts.description}" : null
}

// What is wrong with a value, or null.
def fault_of(value, facts) {
    if (facts['enum'] && !(value.toString() in facts['enum'])) {
        return "is '${value}', expected ${facts['enum'].join(' or ')}"
    }
    def types = facts.type instanceof List ? facts.type : [facts.type]
    if ('number' in types || 'integer' in types) {
        return fault_of_number(value, facts, 'integer' in types)
    }
    if ('boolean' in types) {
        return value instanceof Boolean ? null : "is '${value}', expected true or false"
    }
    if (value instanceof Boolean) {
        return 'stands without a value'
    }
    return facts.pattern && !(value.toString() ==~ facts.pattern)
        ? "is '${value}', expected a value such as ${facts.examples.first()}"
        : null
}

// A key within an address. Nextflow keeps command lines in its report and its log, so it is refused, and not shown.
def secret_in(value) {
    def key = /(?i)(token|secret|passw|signature|credential|api_?key|[?&;]sig=)/
    def address = value.toString()
    def has_user = address =~ '://[^/,\\s]*@'
    def has_key = address.contains('?') && address.substring(address.indexOf('?')) =~ key
    return has_user || has_key
        ? 'holds a password or a key, which Nextflow would write into its report: give it through the environment (docs/serving.md)'
        : null
}

// Addresses of object stores that histocast cannot read, or null.
def unknown_store_in(value) {
    def scheme = value.toString() =~ /^(gs|az|abfss?|wasbs?|oss|swift|hdfs):/
    return scheme ? "is a ${scheme[0][1]}:// address, expected a path or an s3:// address (docs/deployment.md)" : null
}

// Why a value that is not the default changes nothing in this run, or null.
def lack_of_effect(value, facts, given, profiles) {
    if (value == facts.default) {
        return null
    }
    if (facts.used_by && facts.used_by != given.workflow) {
        return "has no effect with --workflow ${given.workflow}: leave it out"
    }
    def lacking = (facts.used_with ?: []).find { group -> !group.intersect(profiles) }
    if (lacking) {
        return "has no effect with -profile ${profiles.join(',')}: leave it out, or add the profile ${lacking.join(' or ')}"
    }
    def needed = facts.used_when ?: [:]
    def found = given + [profile: profiles, container: profiles.intersect(starters_of_containers())]
    def acts = needed.any { name, start -> is_given([found[name]].flatten(), start) }
    return needed && !acts
        ? "has no effect here: leave it out, or ${needed.collect { name, start -> advice_for(name, start) }.findAll().join(', or ')}"
        : null
}

// Profiles whose tasks run in containers.
def starters_of_containers() {
    return ['docker', 'podman', 'apptainer', 'singularity'] + executors_of_containers()
}

def is_given(values, start) {
    def set = values.findAll { value -> value != null && value != '' }
    return start ? set.any { value -> start == '*' || value.toString().startsWith(start) } : !set
}

def advice_for(name, start) {
    if (name in ['profile', 'container']) {
        return start ? "add the profile ${start}" : null
    }
    return start ? "give --${name}${start == '*' ? '' : " ${start}"}" : "leave out --${name}"
}

def fault_of_number(value, facts, whole) {
    def expected = [whole ? 'a whole number' : 'a number']
    if (facts.minimum != null) {
        expected << "at least ${facts.minimum}"
    }
    if (facts.maximum != null) {
        expected << "at most ${facts.maximum}"
    }
    def fits = value instanceof Number
        && (!whole || value == value.toBigInteger())
        && (facts.minimum == null || value >= facts.minimum)
        && (facts.maximum == null || value <= facts.maximum)
    return fits ? null : "is '${value}', expected ${expected.join(', ')}"
}

// The text of --help: groups, parameters, choices and defaults.
def describe_parameters(schema) {
    def known = known_parameters(schema)
    def width = known.keySet().collect { name -> name.size() }.max() + 4
    def groups = known
        .groupBy { _name, facts -> facts.group }
        .collect { title, members ->
            def rows = members.collect { name, facts ->
                "  ${"--${name}".padRight(width)}${facts.description}${notes_of(facts)}"
            }
            ([title] + rows).join('\n')
        }
    def usage = '''\
        nextflow run . --input samplesheet.csv --bundle DIR --outdir DIR [-profile NAMES] [-resume]
        nextflow run . --workflow train --input training.csv --recipe NAME --outdir DIR'''.stripIndent()
    return ([usage] + groups).join('\n\n')
}

def notes_of(facts) {
    def notes = [
        facts['enum']?.join(' | '),
        facts.required ? 'required' : null,
        facts.needed_by ? "required to ${facts.needed_by}" : null,
        facts.default ? "default: ${facts.default}" : null,
    ]
    return notes.any() ? " [${notes.findAll().join('; ')}]" : ''
}

// Every parameter with the value it has in this run, and the same as JSON.
def values_of(schema, given) {
    return known_parameters(schema).keySet().collectEntries { name -> [name, given[name]] }
}

def as_json(values) {
    return groovy.json.JsonOutput.prettyPrint(groovy.json.JsonOutput.toJson(values))
}
