"""A network as a file that phones run.

`graph` says what is computed, `fold` gets there from a `Net`, `tflite` writes it, `check` compares the file with torch,
`manifest` describes it, and `api` puts them together: `export_net(net, card)`, then `write_export(exported, path)`.
"""
