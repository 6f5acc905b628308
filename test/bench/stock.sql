-- What every run starts from: 10,000 SKUs in one location, and one hot SKU
-- with more of it than any run can use up.
INSERT INTO inventory.location(location) VALUES ('MAIN');
INSERT INTO inventory.sku(sku)
	SELECT 'SKU' || n FROM generate_series(1, 10000) AS n
	UNION ALL SELECT 'HOT';
SELECT inventory.post('receive', array_agg(s.sku), array_agg('MAIN'::text), array_agg(1000000000))
FROM inventory.sku s;
