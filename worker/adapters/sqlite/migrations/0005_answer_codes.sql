-- Answers have a code beside their outcome; of a refused request the exact one is not on record.
UPDATE answers SET answer = json_set(
    answer, '$.code', CASE answer ->> 'outcome' WHEN 'failed' THEN 'not-allowed' ELSE answer ->> 'outcome' END
);
