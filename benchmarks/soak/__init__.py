"""A service under work and kills at random: nothing lost, nothing doubled, nothing stuck, memory and disk level.

    python -m benchmarks.soak --seconds 7200

The service is `elasticvit up` on a home folder: a real server, worker, exporting process, agent and benchmark. A client
sends searches, uploads and measurements; meanwhile processes are killed by SIGKILL, now and then all of them at once.
`service` starts, kills and watches the processes, `client` sends requests as a careful client does, `ledger` knows what
was accepted and judges how it ended, `plan` chooses what happens next, `run` is the loop.
"""
