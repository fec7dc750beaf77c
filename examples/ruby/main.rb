require "googleauth"

credentials = Google::Auth.get_application_default("https://www.googleapis.com/auth/cloud-platform")
token = credentials.fetch_access_token!
puts "a token, good for #{token["expires_in"]} seconds"
