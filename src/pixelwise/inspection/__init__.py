"""What a network is made of, what each of its outputs can see, and how its gradients flow."""
