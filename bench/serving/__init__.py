"""What serving costs: our front, queue and worker, beside a bare onnxruntime loop and a peer."""
