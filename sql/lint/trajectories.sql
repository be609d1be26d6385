-- Token-level trajectories, whose columns map to those of asynchronous trainers: {"trajectory_id", "group_id", "task_id",
-- "branch"?, "token_ids", "loss_mask", "logprobs", "reward", "advantage"?, ...}, the three lists of one length.
SELECT split, row, unnest(found([
    error_if(
        coalesce(len(line.token_ids), 0) = 0 OR any_holds([id IS NULL OR id < 0 FOR id IN line.token_ids]),
        'token_ids is not a list of token ids: the trainer fails on the row; write whole numbers from 0'
    ),
    error_if(
        len(line.loss_mask) IS DISTINCT FROM len(line.token_ids),
        'loss_mask is not as long as token_ids: what is trained would shift; write one entry for each token'
    ),
    error_if(
        any_holds([m IS NULL OR m NOT IN ('0', '1', 'true', 'false') FOR m IN line.loss_mask]),
        'loss_mask has values other than 0 and 1: it scales the loss; write 0 or 1'
    ),
    error_if(
        NOT list_has_any(line.loss_mask, ['1', 'true']),
        'no token is trained: the trajectory costs time and teaches nothing; drop it'
    ),
    error_if(
        len(line.logprobs) <> len(line.token_ids),
        'logprobs are not as long as token_ids: importance ratios would shift; write one for each token, 0 where '
        || 'not trained'
    ),
    error_if(
        any_holds([p > 0 OR p IS NULL OR NOT isfinite(p) FOR p IN line.logprobs]),
        'a logprob is above 0 or not finite: importance ratios explode; use the sampler''s log-probs'
    ),
    error_if(
        any_holds([pair[1] IN ('0', 'false') AND pair[2] <> 0 FOR pair IN list_zip(line.loss_mask, line.logprobs)]),
        'a logprob of a token that is not trained is not 0: some trainers sum them all; write 0.0 there'
    ),
    error_if(
        len(line.advantage) <> len(line.token_ids),
        'advantages are not as long as token_ids: they would be credited to other tokens; write one number, or '
        || 'one for each'
    ),
    warning_if(
        line.logprobs IS NULL,
        'no logprobs: off-policy correction is not possible; collect with token_ids = true'
    ),
    warning_if(
        type_of(json, 'reward') IS NULL AND type_of(json, 'advantage') IS NULL,
        'neither reward nor advantage: the trainer cannot tell whether the trajectory is good; add one of them'
    ),
    warning_if(
        type_of(json, 'group_id') IS NULL AND type_of(json, 'advantage') IS NULL,
        'neither group_id nor advantage: group advantages cannot be computed'
    )
]), recursive := true)
FROM (
    SELECT split, row, json, from_json(json, '{"token_ids":["BIGINT"],"loss_mask":["VARCHAR"],"logprobs":["DOUBLE"],'
        || '"advantage":["DOUBLE"]}') AS line
    FROM lines
)
