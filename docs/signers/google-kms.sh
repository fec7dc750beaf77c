#!/bin/sh
# A signer command for gcemds on top of Google Cloud KMS. It is an example, not run in the tests of gcemds.
# usage: google-kms.sh projects/P/locations/L/keyRings/R/cryptoKeys/K/cryptoKeyVersions/N
# The key has the algorithm RSA_SIGN_PKCS1_2048_SHA256 or longer; gcloud is logged in as one who may use it.
set -eu
read -r question
call() {
	# The token goes through a pipe: arguments are in the list of processes.
	printf 'header = "Authorization: Bearer %s"\n' "$(gcloud auth print-access-token)" |
		curl -sf --max-time 4 --config - -H 'Content-Type: application/json' "$@"
}
case $question in
*'"op":"public"'*)
	key=$(call "https://cloudkms.googleapis.com/v1/$1/publicKey" |
		sed -n 's/.*"pem": *"\([^"]*\)".*/\1/p' | sed 's/-----[^-]*-----//g; s/\\n//g')
	printf '{"public":"%s"}\n' "$key"
	;;
*'"alg":"RS256"'*)
	digest=$(printf %s "$question" | sed 's/.*"digest":"\([^"]*\)".*/\1/')
	signature=$(call -d "{\"digest\":{\"sha256\":\"$digest\"}}" "https://cloudkms.googleapis.com/v1/$1:asymmetricSign" |
		sed -n 's/.*"signature": *"\([^"]*\)".*/\1/p')
	printf '{"signature":"%s"}\n' "$signature"
	;;
*) echo '{"error":{"code":"unsupported","message":"only public and RS256"}}' ;;
esac
