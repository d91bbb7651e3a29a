"""Other file formats and the converter that the writer is compared with: ONNX, pt2, litert-torch."""
