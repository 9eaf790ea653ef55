"""flannel's net-conf.json and node annotations, translated into the model. Pure."""
