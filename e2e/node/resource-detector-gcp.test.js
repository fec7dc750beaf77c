// OpenTelemetry's detector.
import assert from 'node:assert/strict';
import {readFileSync} from 'node:fs';
import {test} from 'node:test';
import {gcpDetector} from '@opentelemetry/resource-detector-gcp';
import {detectResources} from '@opentelemetry/resources';

const text = readFileSync(process.env.GCEMDS_DOCUMENT, 'utf8');
const doc = JSON.parse(text);
const id = /"id": (\d+)/.exec(text)[1]; // more digits than a number of JavaScript has

test('the resource is the instance', async () => {
  const resource = detectResources({detectors: [gcpDetector]});
  await resource.waitForAsyncAttributes();
  const zone = doc.instance.zone.split('/').pop();
  assert.deepEqual({...resource.attributes}, {
    'cloud.provider': 'gcp',
    'cloud.platform': 'gcp_compute_engine',
    'cloud.account.id': doc.project.projectId,
    'cloud.availability_zone': zone,
    'cloud.region': zone.replace(/-[^-]*$/, ''),
    'host.id': id,
    'host.name': doc.instance.name,
    'host.type': doc.instance.machineType,
  });
});
