// A library of a service, Cloud Storage: it finds its project and its credentials through the metadata server, and
// calls the service with them. The service is a few lines of this file.
import assert from 'node:assert/strict';
import {readFileSync} from 'node:fs';
import {createServer} from 'node:http';
import {test} from 'node:test';
import {Storage} from '@google-cloud/storage';

const doc = JSON.parse(readFileSync(process.env.GCEMDS_DOCUMENT, 'utf8'));

test('buckets of the project', async () => {
  let asked;
  const service = createServer((request, response) => {
    asked = request;
    response.setHeader('content-type', 'application/json');
    response.end(JSON.stringify({kind: 'storage#buckets', items: [{kind: 'storage#bucket', id: 'one', name: 'one'}]}));
  }).listen(0, '127.0.0.1');
  try {
    await new Promise(done => service.once('listening', done));
    const storage = new Storage({
      apiEndpoint: `http://127.0.0.1:${service.address().port}`,
      useAuthWithCustomEndpoint: true,
    });
    const [buckets] = await storage.getBuckets();
    assert.deepEqual(buckets.map(b => b.name), ['one']);
    assert.equal(new URL(asked.url, 'http://x').searchParams.get('project'), doc.project.projectId);
    const [scheme, token] = asked.headers.authorization.split(' ');
    assert.equal(scheme, 'Bearer');
    const answer = await fetch(`${process.env.GCEMDS_ISSUER}/tokeninfo?access_token=${token}`);
    assert.equal(answer.status, 200);
    assert.match((await answer.json()).scope, /cloud-platform/);
  } finally {
    service.close();
    service.closeAllConnections();
  }
});
