-- Keep the rollouts whose answer has at most `most` words.
-- param most INTEGER = 100   maximum number of words
SELECT s.*, CASE
    WHEN len(spaced_words(s.text)) > getvariable('most') THEN 'more words than most'
END AS dropped
FROM selected AS s
