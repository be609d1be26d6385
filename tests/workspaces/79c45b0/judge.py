def answer(call):
    return '{"reason": "it is right", "reward": 0.75}'
