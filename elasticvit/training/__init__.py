"""Training of supernets: training recipes, the loop, losses, optimizer, checkpoints, several processes.

`augment` changes images, `sampling` chooses the sub-networks of a step, `finetune` adapts a supernet to other classes,
`ablation` compares training methods. `python -m elasticvit.training` is what torchrun starts.
"""
