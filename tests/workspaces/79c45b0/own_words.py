def right(task, rollout):
    return rollout.text.split()[-1].strip(".") == task.answer
