include { task_environment } from './inputs.nf'

// Starts the images in which slides are encoded and gathered, once: one that is missing then ends the run, and costs no
// slide its retries. CHECK and PLAN come first in the images of the other tasks, and so prove those.

// By the name and label of the process it goes ahead of, so that all that is configured for that holds for this one.
process ENCODE {
    tag "${task.container}"
    label 'process_gpu'

    output:
    val true, emit: works

    script:
    """
    ${task_environment(task)}histocast --version
    """

    stub:
    """
    ${task_environment(task)}true
    """
}

process COHORT {
    tag "${task.container}"
    label 'process_cohort'

    output:
    val true, emit: works

    script:
    """
    ${task_environment(task)}histocast --version
    """

    stub:
    """
    ${task_environment(task)}true
    """
}
