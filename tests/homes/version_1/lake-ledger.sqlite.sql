-- lake/ledger.sqlite
BEGIN TRANSACTION;
CREATE TABLE headwater_attempts (
	environment TEXT NOT NULL, 
	asset TEXT NOT NULL, 
	partition TEXT NOT NULL, 
	run_id TEXT NOT NULL, 
	error TEXT NOT NULL, 
	PRIMARY KEY (environment, asset, partition)
);
CREATE TABLE headwater_receipts (
	number INTEGER NOT NULL, 
	environment TEXT NOT NULL, 
	asset TEXT NOT NULL, 
	partition TEXT NOT NULL, 
	current BOOLEAN NOT NULL, 
	id TEXT NOT NULL, 
	read_as TEXT NOT NULL, 
	code_version TEXT NOT NULL, 
	inputs_id TEXT NOT NULL, 
	inputs TEXT NOT NULL, 
	rows BIGINT, 
	checksum TEXT NOT NULL, 
	schema TEXT NOT NULL, 
	extends TEXT, 
	snapshot BIGINT, 
	files TEXT NOT NULL, 
	mark_1 BIGINT NOT NULL, 
	mark_2 BIGINT NOT NULL, 
	inputs_mark_1 BIGINT NOT NULL, 
	inputs_mark_2 BIGINT NOT NULL, 
	run_id TEXT NOT NULL, 
	recorded_at FLOAT NOT NULL, 
	reused BOOLEAN NOT NULL, 
	seal BIGINT NOT NULL, 
	PRIMARY KEY (number)
);
INSERT INTO "headwater_receipts" VALUES(1,'prod','shop/sales','2017-01-02',1,'a1ff3c14464e98ab2b98365dc789fad1','e41929ebd2fc1516ad5b916cc2ced14c','v1','7ebb3c7c2a87b1a2f8a7ed729ecb040d','[]',3,'3:105c56c4a79f53703','{"n":"BIGINT","partition_key":"VARCHAR"}',NULL,1,'',-2882356552758199350,-4493897677052976301,0,0,'e175efe8-ef06-42d9-8061-1682be2dc2aa',1.79601674140542197227e+09,0,947963822);
INSERT INTO "headwater_receipts" VALUES(2,'prod','shop/sales','2017-01-03',1,'34ad89fd18864654eb846eb27e14f6b4','360048a7457f32501838f39e199de89a','v1','7ebb3c7c2a87b1a2f8a7ed729ecb040d','[]',3,'3:2000a69cabb8b7f7f','{"n":"BIGINT","partition_key":"VARCHAR"}',NULL,1,'',7620402892977232538,9166305686657441128,0,0,'e175efe8-ef06-42d9-8061-1682be2dc2aa',1.79601674140554308893e+09,0,3588219715);
INSERT INTO "headwater_receipts" VALUES(3,'prod','shop/evens','2017-01-02',1,'e82d943008e77ecc1400839ffe7ed809','5775d10fe02e8f049cce7f424f885a16','v1','cfc1426f54ad2b0dbc82a8cb8128ba91','[["shop/sales", "2017-01-02", "a1ff3c14464e98ab2b98365dc789fad1", "e41929ebd2fc1516ad5b916cc2ced14c"]]',2,'2:b666db6e82a19b6b','{"n":"BIGINT","partition_key":"VARCHAR"}',NULL,2,'',-8275498924310203952,-7976680976751384537,-2882356552758199350,-4493897677052976301,'e175efe8-ef06-42d9-8061-1682be2dc2aa',1.796016742611342907e+09,0,774796721);
INSERT INTO "headwater_receipts" VALUES(4,'prod','shop/evens','2017-01-03',1,'9ca3c22f2fef62f676c8afed5e76cf1b','965f7b12fcd48d843af3bbe7bf08efd7','v1','120f40b1335568eb215205b395e87d41','[["shop/sales", "2017-01-03", "34ad89fd18864654eb846eb27e14f6b4", "360048a7457f32501838f39e199de89a"]]',1,'1:9e8e739dcc665949','{"n":"BIGINT","partition_key":"VARCHAR"}',NULL,2,'',-926671447138320888,-8553105307478951702,7620402892977232538,9166305686657441128,'e175efe8-ef06-42d9-8061-1682be2dc2aa',1.79601674261144447332e+09,0,2538446518);
INSERT INTO "headwater_receipts" VALUES(5,'prod','shop/sums','2017-01-02',1,'bf36dea6629d2ebe71628fc54ecb4591','ac0cd626c7411ee6f6b3c27ce1555d13','v1','adf7f2da2f06bd850f9c4ba93dd4f05b','[["shop/evens", "2017-01-02", "e82d943008e77ecc1400839ffe7ed809", "5775d10fe02e8f049cce7f424f885a16"]]',1,'1:c2b7751e387d257b','{"n":"BIGINT","partition_key":"VARCHAR"}',NULL,3,'',2071136664783787515,-4944348197499746180,-8275498924310203952,-7976680976751384537,'e175efe8-ef06-42d9-8061-1682be2dc2aa',1.79601674362500882153e+09,0,3306019662);
INSERT INTO "headwater_receipts" VALUES(6,'prod','shop/sums','2017-01-03',1,'456c215d56b211a71e19093ba2aaf910','54e05e5e32e495402f921e9d64b9e88c','v1','c9cf950291ce14f40816d4fa04fac0c5','[["shop/evens", "2017-01-02", "e82d943008e77ecc1400839ffe7ed809", "5775d10fe02e8f049cce7f424f885a16"], ["shop/evens", "2017-01-03", "9ca3c22f2fef62f676c8afed5e76cf1b", "965f7b12fcd48d843af3bbe7bf08efd7"]]',1,'1:df9e0af41990c6b8','{"n":"BIGINT","partition_key":"VARCHAR"}',NULL,3,'',-2756447064189131926,1397564738915946994,-9202170371448524840,1916957789479215377,'e175efe8-ef06-42d9-8061-1682be2dc2aa',1.79601674362511301045e+09,0,2772881195);
INSERT INTO "headwater_receipts" VALUES(7,'prod','shop/model','',1,'7590502220ad74cc022c8dead05526e8','9d1a6b4c7c043571c9f58e01e9f5a5e5','v1','7ebb3c7c2a87b1a2f8a7ed729ecb040d','[]',NULL,'1706adee00751036563a808eb4375501f6e5bcefb3c7b32bbdfd416a48d43f94','',NULL,NULL,'[["/srv/headwater/mlflow/artifacts/model/run/artifacts/model/model.txt", 8]]',90685539102683078,1215494028255834047,0,0,'run',1.79601674378699612617e+09,0,491299684);
CREATE TABLE headwater_recoveries (
	environment TEXT NOT NULL, 
	plan_id TEXT NOT NULL, 
	planned_at FLOAT NOT NULL, 
	pairs TEXT NOT NULL, 
	roots TEXT NOT NULL, 
	backfills TEXT NOT NULL, 
	PRIMARY KEY (environment, plan_id)
);
CREATE INDEX headwater_receipts_of_pair ON headwater_receipts (environment, asset, current, partition);
COMMIT;
