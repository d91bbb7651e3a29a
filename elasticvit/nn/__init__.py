"""Networks and supernets as torch modules, and their files.

`Net` is one architecture, `SuperNet` the shared weights of a space, from which nets are cut. `supernet_header` needs no
torch.
"""
