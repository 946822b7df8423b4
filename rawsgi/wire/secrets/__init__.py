"""What must not be shown or kept, masked byte for byte.

    names      which names carry secrets: of fields, parameters, members of JSON
    fields     request-lines and field lines
    content    forms and JSON, while they arrive

The rule of this package: a mask has the length of what it hides, so that every offset and every
length in a transcript or a recording stays true. Nothing is held back: what is fed comes out at
once. A doubt is masked; but what has no name, or is no form and no JSON, is shown as it is.
"""
