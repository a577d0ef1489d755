"""The arithmetic of convolutions, on raw arrays.

Every module has the same three functions, the bilinear map and its two transposes:

    forward(x, weight, stride, padding) -> y
    input_gradient(g, weight, input_shape, stride, padding) -> like x
    weight_gradient(x, g, kernel_shape, stride, padding) -> like weight

Images are (N, height, width, channels), weights (height, width, inputs, outputs), all C-contiguous;
`kernel_shape` is the (height, width) of the weight, `stride` (down, right) and `padding`
((top, bottom), (left, right)), numbers only. `backend.convolution_kernels` chooses the module.
"""
