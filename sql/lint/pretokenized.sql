-- Tokens as they are, for TRL, SkyRL and Axolotl: {"input_ids", and a mask of the same length: "labels" (-100 is not
-- trained), "loss_mask", "completion_mask" or "assistant_masks", "attention_mask"?}.
SELECT split, row, unnest(found([
    error_if(
        coalesce(len(line.input_ids), 0) = 0 OR list_contains([i IS NULL OR i < 0 FOR i IN line.input_ids], true),
        'input_ids is not a list of token ids: the loader fails on the row; write whole numbers from 0'
    ),
    error_if(
        list_contains([len(mask) <> len(line.input_ids) FOR mask IN [
            line.labels, line.loss_mask, line.completion_mask, line.assistant_masks, line.attention_mask
        ]], true),
        'a mask or labels does not have the length of input_ids: the collator fails, or shifts what is trained; '
        || 'write one entry for each id'
    ),
    error_if(
        list_contains([
            list_contains([i IS NULL OR i NOT IN (0, 1) FOR i IN mask], true)
            FOR mask IN [line.loss_mask, line.completion_mask, line.assistant_masks, line.attention_mask]
        ], true),
        'a mask has values other than 0 and 1: it scales the loss; write 0 or 1'
    ),
    error_if(
        any_holds([pair[1] <> -100 AND pair[1] <> pair[2] FOR pair IN list_zip(line.labels, line.input_ids)]),
        'labels differ from input_ids where they are not -100: the model is trained on other tokens; copy the ids'
    ),
    error_if(
        NOT any_holds([label <> -100 FOR label IN line.labels])
        OR NOT list_contains(line.loss_mask, 1) OR NOT list_contains(line.completion_mask, 1)
        OR NOT list_contains(line.assistant_masks, 1),
        'no token is trained: the row costs time and teaches nothing; drop it'
    ),
    error_if(
        coalesce(line.labels, line.loss_mask, line.completion_mask, line.assistant_masks) IS NULL,
        'neither labels nor a mask: TRL also trains on the prompt, SkyRL and Axolotl stop; write one of them'
    )
]), recursive := true)
FROM (
    SELECT split, row, from_json(json, '{"input_ids":["BIGINT"],"labels":["BIGINT"],"loss_mask":["BIGINT"],'
        || '"completion_mask":["BIGINT"],"assistant_masks":["BIGINT"],"attention_mask":["BIGINT"]}') AS line
    FROM lines
)
