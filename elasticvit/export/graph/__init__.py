"""What is computed: a static list of operators, folded from a `Net`, and a numpy interpreter of it."""
