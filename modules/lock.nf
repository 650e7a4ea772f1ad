// One run at a time writes to a folder of results. A file in it says whose it is, and is renewed while the run lives.

// Ends the run where another one holds the folder; returns what `release_lock` takes. A lock is held while it was renewed
// within the last ten minutes; not by a process of this machine that is gone, nor against the session that it is of:
// Nextflow lets a session run once at a time, so that -resume after a crash goes on at once.
def take_lock(outdir) {
    def path = file("${outdir}/pipeline_info/run.lock")
    if (path.exists()) {
        def age_s = Math.max(0, (System.currentTimeMillis() - path.lastModified()).intdiv(1000))
        def owner = owner_of(path)
        def told = "run ${owner.run} of ${owner.user} on ${owner.host} (process ${owner.pid}), begun ${owner.started}, last heard of ${age_s} s ago"
        if (is_held(owner, age_s)) {
            error("${outdir} is in use by ${told}\nwhat to do: wait for it or choose another --outdir; if it is gone, remove ${path.toUriString()}, or wait until it was silent for ten minutes")
        }
        log.warn("took over the results folder from ${told}, which did not end as it should")
        path.delete()
    }
    path.parent.mkdirs()
    def mine = groovy.json.JsonOutput.toJson(this_run())
    path.text = mine
    def renewing = new Timer('run.lock', true)
    renewing.schedule({ renew(path, mine) } as TimerTask, 60000, 60000)
    return [path: path, mine: mine, renewing: renewing]
}

// Removes the lock, unless another run took it over meanwhile.
def release_lock(lock) {
    lock.renewing.cancel()
    if (lock.path.exists() && lock.path.text == lock.mine) {
        lock.path.delete()
    }
}

def is_held(owner, age_s) {
    def is_gone = owner.host == host_name() && !ProcessHandle.of((owner.pid ?: 0) as long).isPresent()
    return age_s < 600 && owner.session != workflow.sessionId.toString() && !is_gone
}

def owner_of(path) {
    try {
        return new groovy.json.JsonSlurper().parseText(path.text) as Map
    }
    catch (Exception _damaged) {
        return [run: 'unknown', user: 'unknown', host: 'unknown', pid: 0, started: 'unknown']
    }
}

def this_run() {
    return [
        session: workflow.sessionId.toString(),
        run: workflow.runName,
        user: workflow.userName,
        host: host_name(),
        pid: ProcessHandle.current().pid(),
        started: workflow.start.toString(),
    ]
}

def host_name() {
    try {
        return InetAddress.localHost.hostName
    }
    catch (UnknownHostException _nameless) {
        return 'unknown'
    }
}

def renew(path, mine) {
    try {
        path.text = mine
    }
    catch (Exception refused) {
        log.warn("cannot renew ${path}: ${refused.message}")
    }
}
