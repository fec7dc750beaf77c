// gcp-metadata, against the server that the environment names, or the one at 169.254.169.254.
import assert from 'node:assert/strict';
import {execFileSync} from 'node:child_process';
import {readFileSync} from 'node:fs';
import {test} from 'node:test';
import * as gcp from 'gcp-metadata';

const text = readFileSync(process.env.GCEMDS_DOCUMENT, 'utf8');
const doc = JSON.parse(text);
const id = /"id": (\d+)/.exec(text)[1]; // more digits than a number of JavaScript has
const gcemds = (...args) => execFileSync(process.env.GCEMDS, args);

test('the server is detected', async () => {
  assert.equal(await gcp.isAvailable(), true);
});

test('a leaf is its text', async () => {
  assert.equal(await gcp.instance('hostname'), doc.instance.hostname);
  assert.equal(await gcp.project('project-id'), doc.project.projectId);
  assert.equal(await gcp.instance('attributes/startup-script'), doc.instance.attributes['startup-script']);
  assert.equal(await gcp.universe('universe-domain'), 'googleapis.com');
});

test('big numbers keep all digits', async () => {
  assert.equal(String(await gcp.instance('id')), id);
  const all = await gcp.instance({params: {recursive: true}});
  assert.equal(String(all.id), id);
});

test('tags are a list', async () => {
  assert.deepEqual(await gcp.instance('tags'), doc.instance.tags);
});

test('a listing has a line for each child', async () => {
  assert.equal(await gcp.project(), ['attributes/', 'numeric-project-id', 'project-id', ''].join('\n'));
});

test('recursive answers are the document', async () => {
  const project = await gcp.project({params: {recursive: true}});
  assert.deepEqual({...project, attributes: {...project.attributes}}, doc.project);
});

test('properties and parameters', async () => {
  assert.equal(await gcp.instance({property: 'tags', params: {alt: 'text'}}), doc.instance.tags.map(t => t + '\n').join(''));
});

test('bulk', async () => {
  const got = await gcp.bulk([{metadataKey: 'instance/name'}, {metadataKey: 'project/numeric-project-id'}]);
  assert.deepEqual(got, {'instance/name': doc.instance.name, 'project/numeric-project-id': doc.project.numericProjectId});
});

test('an absent key is an error with status 404', async () => {
  await assert.rejects(gcp.instance('attributes/no-such-key'), err => err.response.status === 404);
});

test('a change is seen by one who waits', async () => {
  const wait = {wait_for_change: true, last_etag: 'NONE', timeout_sec: 60};
  gcemds('set', 'instance/attributes/node', 'one');
  assert.equal(await gcp.instance({property: 'attributes/node', params: wait}), 'one');
});
