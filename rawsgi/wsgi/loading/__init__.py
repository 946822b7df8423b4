"""From what a person writes to a callable: `application` finds it in the module that `importing`
loads, `failure` tells what went wrong, `patching` who replaced the threads meanwhile."""
