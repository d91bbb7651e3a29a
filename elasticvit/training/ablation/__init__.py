"""The paper's evidence in miniature: does each part of its sampling help, and are gradients why (sections 3.2 and 5.2).

    elasticvit ablate            # tables and plots from the committed results
    elasticvit ablate --run      # train again what is missing

Reading order: plan (what is compared), floors and supernet_run (one supernet, trained and measured), gradients,
scratch, run, records (what is kept of them), statistics, tables, plots.
"""
