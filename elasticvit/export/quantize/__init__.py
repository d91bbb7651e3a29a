"""In which number formats a graph is computed: static int8, mixed int8 by recipe, and what that costs in accuracy."""
