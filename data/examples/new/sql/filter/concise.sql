-- Keep the rollouts whose answer has at most so many words.
-- param most INTEGER = 100   most words kept
SELECT s.*, CASE
    WHEN len(spaced_words(s.text)) > getvariable('most') THEN 'more words than most'
END AS dropped
FROM selected AS s
