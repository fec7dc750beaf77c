#!/bin/sh
# A signer command for gcemds on top of AWS KMS. It is an example, not run in the tests of gcemds.
# usage: aws-kms.sh KEY-ID
# The key has the usage SIGN_VERIFY and the specification RSA_2048 or longer; the AWS CLI, version 2, may use it.
set -eu
read -r question
case $question in
*'"op":"public"'*)
	key=$(aws kms get-public-key --key-id "$1" --query PublicKey --output text)
	printf '{"public":"%s"}\n' "$key"
	;;
*'"alg":"RS256"'*)
	digest=$(printf %s "$question" | sed 's/.*"digest":"\([^"]*\)".*/\1/')
	signature=$(aws kms sign --key-id "$1" --message-type DIGEST --message "$digest" \
		--signing-algorithm RSASSA_PKCS1_V1_5_SHA_256 --query Signature --output text)
	printf '{"signature":"%s"}\n' "$signature"
	;;
*) echo '{"error":{"code":"unsupported","message":"only public and RS256"}}' ;;
esac
