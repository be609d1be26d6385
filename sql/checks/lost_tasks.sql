-- Datasets whose task files were overwritten or deleted, as when two workspaces that each ran `chunk` are copied into
-- one: both call their first file part-00000. rollouts, tasks: attempts on disk whose task, as it was then, is in no
-- file. missing: rows that chunk wrote and that are in no file. torn: tasks that two chunk runs, which did not know of
-- each other, changed in different ways, so that the newest version is there twice.
WITH orphans AS (
    SELECT a.dataset, count(*) FILTER (WHERE a.error IS NULL) AS rollouts, count(DISTINCT a.task_id) AS tasks
    FROM attempts AS a
    ANTI JOIN task_log AS t ON t.dataset = a.dataset AND t.task_id = a.task_id AND t.row_hash = a.row_hash
    GROUP BY a.dataset
),

newest AS (
    SELECT dataset, task_id, version, count(DISTINCT concat_ws(' ', row_hash, removed)) AS rows_of_it
    FROM task_log
    GROUP BY dataset, task_id, version
),

torn AS (
    SELECT dataset, count(*) AS torn
    FROM (SELECT dataset, task_id, max_by(rows_of_it, version) AS rows_of_it FROM newest GROUP BY dataset, task_id)
    WHERE rows_of_it > 1
    GROUP BY dataset
),

written AS (
    SELECT dataset, count(*) FILTER (WHERE NOT removed) AS on_disk
    FROM task_log
    GROUP BY dataset
),

-- A chunk run that found no task at all began a lineage of its own; a merge takes all tasks of both.
chunks AS (
    SELECT run_id, happened_at, host, recipe, unnest(map_entries(counts::MAP(VARCHAR, JSON))) AS chunked
    FROM runs
    WHERE event = 'end' AND command = 'chunk' AND counts IS NOT NULL
),

chunked AS (
    SELECT run_id, happened_at, host, chunked.key AS dataset,
        array_to_string((recipe -> 'datasets' -> chunked.key -> 'input')::VARCHAR[], ', ') AS input,
        coalesce((chunked.value ->> 'new')::BIGINT, 0) AS new,
        coalesce((chunked.value ->> 'edited')::BIGINT, 0) + coalesce((chunked.value ->> 'returned')::BIGINT, 0) AS more,
        coalesce((chunked.value ->> 'unchanged')::BIGINT, 0) + coalesce((chunked.value ->> 'edited')::BIGINT, 0)
            + coalesce((chunked.value ->> 'removed')::BIGINT, 0) + coalesce((chunked.value ->> 'returned')::BIGINT, 0) AS before
    FROM chunks
),

merged AS (
    SELECT max(happened_at) AS happened_at
    FROM runs
    WHERE event = 'end' AND command = 'merge' AND exit_code = 0
),

lineages AS (
    -- Only where the last chunk run began anew and no merge followed: one that found tasks has set right whatever was
    -- wrong.
    SELECT dataset,
        if(
            max_by(before, happened_at) = 0 AND coalesce(max(happened_at) > (SELECT happened_at FROM merged), true),
            sum(new + more), 0
        ) AS written,
        count(*) FILTER (WHERE before = 0 AND new > 0) AS lineages,
        count(DISTINCT concat_ws(' ', new, input)) FILTER (WHERE before = 0 AND new > 0) AS different,
        list(strftime(happened_at, '%Y-%m-%d %H:%M') || ' on ' || coalesce(host, '?') || ': ' || new || ' tasks of '
            || coalesce(input, 'an input') ORDER BY happened_at)
            FILTER (WHERE before = 0 AND new > 0) AS origins
    FROM chunked
    GROUP BY dataset
)

SELECT coalesce(w.dataset, o.dataset) AS dataset, coalesce(o.rollouts, 0) AS rollouts, coalesce(o.tasks, 0) AS tasks,
    coalesce(t.torn, 0) AS torn, if(l.different > 1, greatest(l.written - coalesce(w.on_disk, 0), 0), 0)::BIGINT AS missing,
    if(l.lineages > 1, l.origins, []) AS origins
FROM written AS w
FULL JOIN orphans AS o ON o.dataset = w.dataset
LEFT JOIN torn AS t ON t.dataset = coalesce(w.dataset, o.dataset)
LEFT JOIN lineages AS l ON l.dataset = coalesce(w.dataset, o.dataset)
WHERE o.tasks > 0 OR t.torn > 0 OR (l.different > 1 AND l.written > coalesce(w.on_disk, 0))
ORDER BY dataset
