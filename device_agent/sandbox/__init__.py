"""What a benchmark process may do on this machine: memory, time, files, user. `launch` applies it, `choice` finds out
what the machine has. The modules that `launch` imports need the standard library only, to start fast."""
